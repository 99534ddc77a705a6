//! Where the tasks of a client library run: they end with the connection that they are for.

use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;

/// A runtime of one thread, which may be dropped anywhere. Its tasks end then, whatever they wait for.
pub(super) struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    /// One whose thread has this name.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn new(name: &str) -> Result<Self, String> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| format!("the system gives no thread: {error}"))?;
        Ok(Self(Some(runtime)))
    }

    /// Begins something there.
    ///
    /// # Errors
    /// It is over.
    pub(super) fn spawn<F>(&self, task: F) -> Result<JoinHandle<F::Output>, String>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let runtime = self.0.as_ref();
        let spawned = runtime.map(|runtime| runtime.spawn(task));
        spawned.ok_or_else(|| "the library has no runtime".into())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
