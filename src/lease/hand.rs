//! A lease that a person gives: the state directory's lock says which machine may have it.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::{Clearing, LOOK, Taken};
use crate::ambient::now;
use crate::config::Config;
use crate::store::{By, Holder, holder};
use crate::telemetry::{Bursts, Journal, Notable, host_name};
use event_manager_core::leases::candidate::{Held, Term};
use event_manager_core::leases::tenure::{Grant, Tenure};

/// No clock ends it.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Waits until this machine may have the directory, and then until it may not any more.
pub(super) async fn wait(
    config: &Config,
    journal: &Journal,
    (held, over): (SyncSender<Taken>, watch::Sender<bool>),
    mut released: oneshot::Receiver<()>,
) {
    let (directory, host) = (&config.state_dir, host_name());
    let mut clearing = Clearing::default();
    let Some(epoch) = promoted(config, journal, &mut clearing, &mut released).await else {
        return;
    };
    let grant = Grant {
        source: config.lease.source.clone(),
        engine: None,
        name: config.lease.name.clone(),
        holder: host.clone(),
        ttl: None,
    };
    let at = now();
    let for_ever = Held {
        // The epoch that the directory gets from us.
        token: epoch + 1,
        until: at + FOR_EVER,
    };
    let tenure = Arc::new(Tenure::new(grant, Term::new(for_ever, at), at));
    let term = Arc::clone(tenure.term());
    // Nobody is there any more: it was told to stop.
    let _ = held.send((tenure, clearing.take()));
    loop {
        if rest(&mut released).await {
            return;
        }
        let is_ours = holder(directory).is_ok_and(|now| now.by == By::Hand(host.clone()));
        if !is_ours || term.is_over(now()) {
            break;
        }
    }
    term.end();
    over.send_replace(true);
    let _ = released.await;
}

/// Waits until somebody has promoted this machine; the epoch of the directory until then. `None` if it was told to
/// end.
async fn promoted(
    config: &Config,
    journal: &Journal,
    clearing: &mut Clearing,
    released: &mut oneshot::Receiver<()>,
) -> Option<u64> {
    let (name, host) = (&config.lease.name, host_name());
    let (mut said, mut bursts) = (None, Bursts::default());
    loop {
        let other = match holder(&config.state_dir) {
            Ok(Holder {
                epoch,
                by: By::Hand(promoted),
                ..
            }) if promoted == host => return Some(epoch),
            Ok(Holder {
                by: By::Hand(promoted),
                ..
            }) => Some(promoted),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                if let Some(suppressed) = bursts.admit("source", now()) {
                    journal.note(&Notable::LeaseSourceFailed {
                        name,
                        source: &config.lease.source,
                        why: &why_unread(&error),
                        suppressed,
                    });
                }
                None
            }
            Ok(_) | Err(_) => Some("nobody: run event-manager promote".to_owned()),
        };
        if other.is_some() && said != other {
            journal.note(&Notable::StandingBy {
                name,
                holder: other.as_deref().unwrap_or_default(),
            });
            said = other;
            clearing.begin(config, journal);
        }
        if rest(released).await {
            return None;
        }
    }
}

/// Why the lock can't be read, with what mends it.
fn why_unread(error: &std::io::Error) -> String {
    let mend = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; it has to be a file of the user that runs this daemon: give it to that user (chown), and run event-manager promote as that user"
        }
        _ => "",
    };
    format!("{error}{mend}")
}

/// Whether it was told to end.
async fn rest(released: &mut oneshot::Receiver<()>) -> bool {
    tokio::select! {
        _ = released => true,
        () = sleep(LOOK) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use tokio::runtime::Builder;

    #[test]
    fn it_ends_while_the_lock_can_not_be_read() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("lock")).unwrap();
        let config = Config {
            state_dir: directory.path().to_owned(),
            ..Config::default()
        };
        let (held, taken) = sync_channel(1);
        let (release, released) = oneshot::channel();
        drop(release);
        let journal = Journal::in_memory("test".into());
        let over = watch::channel(false).0;
        let waiting = wait(&config, &journal, (held, over), released);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(waiting);
        assert!(taken.try_recv().is_err(), "nobody was promoted");
    }
}
