//! Tasks that must not end: the end of one ends the daemon, and a service manager restarts it.
//!
//! A daemon that continues without its store's follower or its reader of announcements looks healthy but repairs
//! nothing.

use std::future::Future;

use tokio::task::JoinHandle;

/// A task that must not end has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} has ended{}; the daemon stops, so that a supervisor restarts it", panic.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
pub struct Ended {
    /// The name of the task.
    pub name: &'static str,
    /// The message of its panic, if it panicked.
    pub panic: Option<String>,
}

/// A task of the runtime. Dropping it aborts the task.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
    /// The result, because that of a `JoinHandle` can be taken only once.
    ended: Option<Ended>,
}

impl Task {
    /// Starts `work`. Needs a tokio runtime.
    pub fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { name, handle: tokio::spawn(work), ended: None }
    }

    /// Waits until the task ends: by itself, by a panic, or with its runtime. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let outcome = (&mut self.handle).await;
        let panic = outcome.err().filter(tokio::task::JoinError::is_panic).map(|error| text(&*error.into_panic()));
        self.ended.insert(Ended { name: self.name, panic }).clone()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The message of a panic: a literal, or the result of `format!`.
fn text(payload: &(dyn std::any::Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_end_is_told_as_often_as_it_is_asked_for() {
        let mut returns = Task::spawn("reader", async {});
        let mut panics = Task::spawn("follower", async { panic!("{} bytes", 5) });
        for _ in 0..2 {
            assert_eq!(returns.ended().await, Ended { name: "reader", panic: None });
            assert_eq!(panics.ended().await, Ended { name: "follower", panic: Some("5 bytes".into()) });
        }
        let text = panics.ended().await.to_string();
        assert_eq!(text, "follower has ended (5 bytes); the daemon stops, so that a supervisor restarts it");
    }

    #[tokio::test]
    async fn a_dropped_task_is_aborted() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let task = Task::spawn("waiter", async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(task);
        assert!(receiver.await.is_err(), "the task has let go of what it owned");
    }
}
