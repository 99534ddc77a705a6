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
    let (name, directory, host) = (&config.lease.name, &config.state_dir, host_name());
    let (mut said, mut bursts) = (None, Bursts::default());
    let mut clearing = Clearing::default();
    let epoch = loop {
        let other = match holder(directory) {
            Ok(Holder {
                epoch,
                by: By::Hand(promoted),
                ..
            }) if promoted == host => break epoch,
            Ok(Holder {
                by: By::Hand(promoted),
                ..
            }) => promoted,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let mend = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "; it has to be a file of the user that runs this daemon: give it to that user (chown), and run event-manager promote as that user"
                    }
                    _ => "",
                };
                if let Some(suppressed) = bursts.admit("source", now()) {
                    journal.note(&Notable::LeaseSourceFailed {
                        name,
                        source: &config.lease.source,
                        why: &format!("{error}{mend}"),
                        suppressed,
                    });
                }
                rest(&mut released).await;
                continue;
            }
            Ok(_) | Err(_) => "nobody: run event-manager promote".to_owned(),
        };
        if said.as_ref() != Some(&other) {
            journal.note(&Notable::StandingBy {
                name,
                holder: &other,
            });
            said = Some(other);
            clearing.begin(config, journal);
        }
        if rest(&mut released).await {
            return;
        }
    };
    let grant = Grant {
        source: config.lease.source.clone(),
        engine: None,
        name: name.clone(),
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

/// Whether it was told to end.
async fn rest(released: &mut oneshot::Receiver<()>) -> bool {
    tokio::select! {
        _ = released => true,
        () = sleep(LOOK) => false,
    }
}
