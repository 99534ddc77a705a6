//! What the store is to know of tries: how often events were given to workers, who has them, and when
//! those that came back may go again.

use super::appends::find;
use super::{Queues, Shell};
use crate::broker::Broker;
use crate::store::Command;
use event_manager_wire::model::ServiceName;

impl<R> Queues<R> {
    /// Events of a durable service were given to workers, or came back from them. Whether this is news.
    pub fn tried(&mut self, queue: &ServiceName) -> bool {
        if self.store.is_none() {
            return false;
        }
        let record = self.record(queue);
        let is_news = !std::mem::replace(&mut record.is_tried, true);
        if is_news {
            self.tried.push(queue.clone());
        }
        is_news
    }

    /// Whether the store should be told of tries, and has room for that.
    pub fn owes_tries(&self) -> bool {
        self.commands.is_empty() && !self.tried.is_empty()
    }

    /// Tells the store how often events were tried that are not done, unless it has no room: then later.
    /// There is no bound to how often events are tried while the disk hangs, so only the last counts wait
    /// for it, with the events. No worker is given anything any more if the daemon stops.
    pub fn note_tries(&mut self, broker: &mut Broker, stops: bool, shell: &dyn Shell) {
        if !self.commands.is_empty() {
            return;
        }
        for name in std::mem::take(&mut self.tried) {
            let Some(record) = self.records.get_mut(&name) else {
                continue;
            };
            if std::mem::take(&mut record.is_tried) {
                self.note_tries_of(broker, &name, stops, shell);
            }
        }
    }

    fn note_tries_of(
        &mut self,
        broker: &mut Broker,
        name: &ServiceName,
        stops: bool,
        shell: &dyn Shell,
    ) {
        let Some((_, service)) = find(broker, name) else {
            return;
        };
        let attempts = service.queue.take_tries();
        let in_hands = service.queue.take_in_hands();
        let later = service.queue.take_later();
        let hands_out_no_more = service.stops_handing_out(stops);
        if service.spill.is_none() {
            return;
        }
        let record = self.record(name);
        let id = record.id.clone();
        // These go first: after a crash, an event whose end was not logged must still count as delivered.
        let settled = match hands_out_no_more {
            true => std::mem::take(&mut record.settled),
            false => vec![],
        };
        self.send_settled(&id, settled);
        if !attempts.is_empty() {
            self.send(Command::Attempts {
                queue: id.clone(),
                attempts,
                in_hands,
            });
        }
        if !later.is_empty() {
            let clocks = shell.clocks();
            let until = later.into_iter();
            let until = until.map(|(seq, at)| (seq, clocks.wall_ms_at(at)));
            self.send(Command::Later {
                queue: id.clone(),
                until_ms: until.collect(),
            });
        }
        if hands_out_no_more {
            self.send(Command::HandOut {
                queue: id,
                on: false,
            });
        }
    }
}
