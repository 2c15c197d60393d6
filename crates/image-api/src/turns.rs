//! Whose turn it is to write an object: writers that lost a race queue up here instead of racing on, so that many
//! pushes into one stream all arrive. The first try of everybody is without a queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Queue = tokio::sync::Mutex<()>;

/// The queues of all objects somebody waits for; cheap to clone.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<String, Weak<Queue>>>>);

impl Turns {
    fn queue(&self, object: String) -> Arc<Queue> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = queues.get(&object).and_then(Weak::upgrade).unwrap_or_default();
        queues.insert(object, Arc::downgrade(&queue));
        queue
    }
}

/// One writer's place; it is given up when this is dropped.
#[derive(Default)]
pub struct Turn(Option<OwnedMutexGuard<()>>);

impl Turn {
    /// Waits until all who came before are done; at once if this writer's turn has come already.
    pub async fn wait(&mut self, turns: &Turns, namespace: &str, name: &str) {
        if self.0.is_none() {
            self.0 = Some(turns.queue(format!("{namespace}/{name}")).lock_owned().await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_writer_at_a_time_and_no_queue_is_left_behind() {
        let turns = Turns::default();
        let (mut first, mut second, mut other) = (Turn::default(), Turn::default(), Turn::default());
        first.wait(&turns, "p", "app").await;
        first.wait(&turns, "p", "app").await;
        assert!(second.wait(&turns, "p", "app").now_or_never().is_none());
        other.wait(&turns, "p", "other").await;
        drop((first, other));
        second.wait(&turns, "p", "app").await;
        drop(second);
        drop(turns.queue("p/last".into()));
        assert_eq!(turns.0.lock().expect("no panic").len(), 1);
    }
}
