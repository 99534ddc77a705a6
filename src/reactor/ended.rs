//! A durable service that was ended: nothing of it may be taken for one of the same name, or in the
//! same place, that comes after it.

use super::hub::Hub;
use crate::broker::EndedService;
use crate::model::ServiceName;
use crate::store::{Command, Report};

impl Hub {
    /// Its queue goes, and all that waits for the disk on its account. What was told of its events
    /// was handed to the store already.
    pub(super) fn remove_queue(&mut self, ended: &EndedService) {
        let queue = &ended.name;
        self.durable.settled.remove(queue);
        self.durable.forget_tries(ended.key);
        self.durable.forget_places(queue);
        self.durable.failed.remove(queue);
        self.durable.unread.remove(queue);
        // Their letters are kept, but the places are the next queue's soon.
        let burials = self.durable.burials.values_mut();
        for burial in burials.filter(|burial| burial.service == *queue) {
            burial.places.fill(None);
        }
        self.durable.appending_bytes -= ended.pending_bytes;
        self.wake_publishers();
        self.durable.opened.remove(queue);
        let command = Command::Remove {
            queue: queue.clone(),
        };
        if self.durable.send(command) {
            *self.durable.removing.entry(queue.clone()).or_default() += 1;
        }
        let of_it = (ended.key, 0)..=(ended.key, u64::MAX);
        let tags: Vec<_> = self
            .durable
            .confirms
            .range(of_it)
            .map(|(tag, _)| *tag)
            .collect();
        let confirms = tags
            .iter()
            .filter_map(|tag| self.durable.confirms.remove(tag));
        let emissions: Vec<_> = confirms.flatten().collect();
        for (_, emission) in emissions {
            self.confirm(
                emission,
                Some(queue),
                Err(format!("{queue}: the service has ended")),
            );
        }
        self.refuse_replays(queue);
    }

    /// Whether a report is of a queue that was to be removed before what is in it now.
    pub(super) fn is_of_the_past(&mut self, report: &Report) -> bool {
        let Some(queue) = report.queue() else {
            return false;
        };
        let Some(removals) = self.durable.removing.get_mut(queue) else {
            return false;
        };
        if matches!(report, Report::Removed { .. }) {
            *removals -= 1;
            if *removals == 0 {
                self.durable.removing.remove(queue);
            }
            return false;
        }
        true
    }

    fn refuse_replays(&mut self, service: &ServiceName) {
        for tag in self.letters.replays_to(service) {
            self.replay_failed(service, tag, "the service has ended");
        }
    }
}
