//! The thread that owns the netlink sockets. It carries out work that is sent to it and decides nothing.

use std::sync::mpsc;
use std::thread;

use kernel::{Kernel, KernelError};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&mut Kernel) + Send>;

/// The handle of the thread, which ends when the handle is dropped and its work is done.
#[derive(Debug)]
pub struct KernelThread {
    jobs: mpsc::Sender<Job>,
    port: u32,
}

/// The thread cannot start, or it has panicked.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// A netlink socket cannot be opened.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The thread cannot be created.
    #[error("start the kernel thread: {0}")]
    Start(#[source] std::io::Error),
    /// The thread has panicked, which is a bug. The panic's message is on stderr.
    #[error("the kernel thread has ended")]
    Gone,
}

impl KernelThread {
    /// Starts the thread in the network namespace of the caller.
    pub fn start() -> Result<Self, ThreadError> {
        let mut kernel = Kernel::open()?;
        let port = kernel.socket().port()?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job(&mut kernel));
        thread::Builder::new().name("kernel".into()).spawn(work).map_err(ThreadError::Start)?;
        Ok(Self { jobs, port })
    }

    /// The port of the socket that changes routes and neighbours: their announcements carry it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Runs `work` on the thread and returns its result.
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
