//! SIGINT and SIGTERM for commands that wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ambient::now;

/// How often work looks whether it shall end.
const LOOK: Duration = Duration::from_millis(200);

/// A runtime for signals and little else.
pub(super) fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Does work that waits. A name that is looked up for long does not hold up its end.
pub(super) fn wait_for<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// What asks a process to end.
pub(super) struct Termination {
    interrupt: Signal,
    terminate: Signal,
}

impl Termination {
    /// From now on these signals don't end the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Told to work, which looks at it now and then.
#[derive(Clone, Default)]
pub(super) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// How long a wait may be without missing the flag.
    pub(super) fn look_until(&self) -> Instant {
        now() + LOOK
    }
}

/// Does blocking work that ends by itself, or soon after a signal.
pub(super) fn until_terminated<T: Send + 'static>(
    work: impl FnOnce(StopFlag) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    wait_for(async {
        let mut termination = Termination::listen()?;
        let flag = StopFlag::default();
        let mut working = tokio::task::spawn_blocking({
            let flag = flag.clone();
            move || work(flag)
        });
        tokio::select! {
            done = &mut working => return done?,
            () = termination.received() => flag.0.store(true, Ordering::Relaxed),
        }
        working.await?
    })
}
