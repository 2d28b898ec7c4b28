//! Forwards the plugin's own events to containerd over ttrpc (`<containerd's socket>.ttrpc`). What containerd's
//! metadata layer publishes already (prepare, commit, remove) is not repeated.
//!
//! No operation ever waits for it: the queue is bounded, and what does not fit, or cannot be sent because containerd is
//! away, is dropped and counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use ttrpc::context::with_duration;

/// Events that may wait.
const QUEUE: usize = 256;
/// How long containerd may take for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where events are put in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: Sender<Envelope>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Starts the task that forwards to the containerd that listens at `containerd`. Needs a tokio runtime.
    #[must_use]
    pub fn start(containerd: &Path) -> Self {
        let (queue, events) = channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut socket = containerd.as_os_str().to_owned();
        socket.push(".ttrpc");
        tokio::spawn(forward(events, PathBuf::from(socket), dropped.clone()));
        Self { queue, dropped }
    }

    /// Queues an event of any message; never blocks. `type_url` is the message's full name.
    pub fn publish(&self, namespace: &str, topic: &str, type_url: &str, message: &impl Message) {
        let Ok(value) = message.write_to_bytes() else { return };
        let event = Any { type_url: type_url.to_owned(), value, ..Default::default() };
        let envelope = Envelope {
            timestamp: MessageField::some(SystemTime::now().into()),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: MessageField::some(event),
            ..Default::default()
        };
        if self.queue.try_send(envelope).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

async fn forward(mut events: Receiver<Envelope>, socket: PathBuf, dropped: Arc<AtomicU64>) {
    let mut client = None;
    while let Some(envelope) = events.recv().await {
        let topic = envelope.topic.clone();
        if client.is_none() {
            let address = format!("unix://{}", socket.display());
            match ttrpc::r#async::Client::connect(&address).await {
                Ok(connected) => client = Some(EventsClient::new(connected)),
                Err(e) => {
                    let dropped = dropped.fetch_add(1, Ordering::Relaxed) + 1;
                    tracing::debug!(topic, dropped, error = %e, "containerd is away, event dropped");
                    continue;
                }
            }
        }
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
        if let Some(connected) = &client {
            let context = with_duration(PATIENCE);
            if let Err(e) = connected.forward(context, &request).await {
                let dropped = dropped.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::debug!(topic, dropped, error = %e, "event dropped");
                client = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::events::snapshot::SnapshotCommit;

    #[tokio::test]
    async fn without_containerd_events_are_dropped_and_counted() {
        let tmp = tempfile::tempdir().unwrap();
        let events = Events::start(&tmp.path().join("none.sock"));
        // The test's one thread is held, so the queue fills before anything is taken out.
        for _ in 0..QUEUE + 10 {
            events.publish("ns", "/di3fs/test", "containerd.events.SnapshotCommit", &SnapshotCommit::new());
        }
        assert_eq!(events.dropped(), 10);
        for _ in 0..500 {
            if events.dropped() == QUEUE as u64 + 10 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("dropped {}", events.dropped());
    }
}
