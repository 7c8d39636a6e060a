//! The thread that owns the netlink sockets. What is to be done with them is sent to it; it never decides.

use std::sync::mpsc;
use std::thread;

use kernel::{Kernel, KernelError};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&mut Kernel) + Send>;

/// The way to the thread. It ends when this is dropped and its work is done.
#[derive(Debug)]
pub struct KernelThread {
    jobs: mpsc::Sender<Job>,
}

/// The thread cannot be started, or it has panicked.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// There is no socket to work with.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// There is no thread to be had.
    #[error("start the kernel thread: {0}")]
    Start(#[source] std::io::Error),
    /// A defect of ours; its message is on stderr.
    #[error("the kernel thread has ended")]
    Gone,
}

impl KernelThread {
    /// Starts the thread in the network namespace of the caller.
    pub fn start() -> Result<Self, ThreadError> {
        let mut kernel = Kernel::open()?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job(&mut kernel));
        thread::Builder::new().name("kernel".into()).spawn(work).map_err(ThreadError::Start)?;
        Ok(Self { jobs })
    }

    /// Has `work` done and waits for what it returns.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, ThreadError> {
        let (sender, reply) = oneshot::channel();
        let job: Job = Box::new(move |kernel| drop(sender.send(work(kernel))));
        self.jobs.send(job).map_err(|_| ThreadError::Gone)?;
        reply.await.map_err(|_| ThreadError::Gone)
    }
}
