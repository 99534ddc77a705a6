//! The measurements.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};

use super::cpu::is_daemon;
use super::flow::Flow;
use super::{BenchArgs, UNDER_WAY_BYTES_MAX, What};
use crate::ambient::{now, random};
use crate::cli::progress::Progress;
use event_manager_client::{Client, Hub, Level, Service};

/// How long the daemon may take for what was published as fast as it goes.
const FLUSH: Duration = Duration::from_secs(60);
/// The same for a worker's last words.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long it took.
pub(super) struct Measured {
    pub(super) took: Duration,
    /// In order, in ns; none where nobody gets the events.
    pub(super) latencies: Vec<u64>,
}

/// What is to be measured, and by what.
struct Plan {
    hub: Hub,
    events: u64,
    size: usize,
    rate: Option<f64>,
    window: u64,
    durable: bool,
    /// The subject of its events, and the name of its service; nobody else has them.
    name: String,
}

/// A connected bench, with what is to be ended.
pub(super) struct Bench {
    plan: Plan,
    client: Client,
    daemon_pid: Option<u32>,
    worker: Option<Service>,
    /// Its service is subscribed without a worker.
    is_subscribed: bool,
}

impl Bench {
    pub(super) async fn start(args: &BenchArgs) -> anyhow::Result<Self> {
        let hub = args.target.hub(None).await?;
        let status = hub.status().await?;
        let size = args.size as usize;
        let room = (UNDER_WAY_BYTES_MAX / size) as u64;
        let plan = Plan {
            hub,
            events: args.events,
            size,
            rate: args.rate,
            window: u64::from(args.window).min(room),
            durable: args.durable,
            name: format!("event-manager-bench-{:016x}", random()),
        };
        Ok(Self {
            plan,
            client: args.target.async_client()?,
            daemon_pid: Some(status.pid).filter(|pid| is_daemon(*pid)),
            worker: None,
            is_subscribed: false,
        })
    }

    pub(super) fn daemon_pid(&self) -> Option<u32> {
        self.daemon_pid
    }

    pub(super) async fn measure(&mut self, what: What) -> anyhow::Result<Measured> {
        let plan = &self.plan;
        let progress = Progress::new(what.name(), Some(plan.events));
        match what {
            What::Publish => plan.publish(progress).await,
            What::Subscribe => plan.subscribe(progress).await,
            What::Work => {
                let worker = self.worker.insert(plan.start_worker().await?);
                plan.work(worker, progress).await
            }
            What::Confirm => {
                if plan.durable {
                    // Also if it is not answered.
                    self.is_subscribed = true;
                    self.client.ask_json(&plan.subscription()).await?;
                }
                plan.confirm(progress).await
            }
        }
    }

    /// Ends what a measurement has begun.
    pub(super) async fn clean_up(&mut self) -> anyhow::Result<()> {
        let worker = self.worker.take();
        if worker.is_none() && !self.is_subscribed {
            return Ok(());
        }
        let name = self.plan.name.clone();
        self.end_service(worker).await.with_context(|| match self.plan.durable {
            true => format!("the durable service {name} may be left: end it with `event-manager services --end {name}` when its subscription has expired"),
            false => format!("the service {name} may be left, until its subscription expires"),
        })
    }

    async fn end_service(&mut self, worker: Option<Service>) -> anyhow::Result<()> {
        if let Some(worker) = worker {
            worker.unsubscribe(LAST_ANSWERS).await?;
        }
        if std::mem::take(&mut self.is_subscribed) {
            self.client.unsubscribe(&self.plan.name).await?;
        }
        if self.plan.durable {
            self.client.end(&self.plan.name).await?;
        }
        Ok(())
    }
}

impl Plan {
    fn flow(&self) -> Flow {
        Flow::new(self.events, self.rate, self.window)
    }

    async fn publish(&self, mut progress: Progress) -> anyhow::Result<Measured> {
        // Connected before.
        self.hub.flush().await?;
        let flow = Flow::new(self.events, self.rate, u64::MAX);
        let mut body = vec![0; self.size];
        for _ in 0..self.events {
            let number = flow.next().await;
            flow.stamp(number, &mut body);
            let frames = [self.name.as_bytes(), &body];
            self.hub.publish_frames(&frames).await?;
            progress.add(1);
        }
        self.hub.flush_within(FLUSH).await?;
        Ok(Measured {
            took: now() - flow.began(),
            latencies: vec![],
        })
    }

    /// Publishes all events, no more at a time than there is room for.
    async fn publish_into(&self, flow: &Flow) -> anyhow::Result<()> {
        let mut body = vec![0; self.size];
        for _ in 0..self.events {
            let number = flow.next().await;
            flow.stamp(number, &mut body);
            let frames = [self.name.as_bytes(), &body];
            self.hub.publish_frames(&frames).await?;
        }
        Ok(())
    }

    /// Does both until all has come.
    async fn until_all_has_come(
        &self,
        flow: Flow,
        receive: impl AsyncFnOnce(&Flow) -> anyhow::Result<Instant>,
    ) -> anyhow::Result<Measured> {
        let all = async {
            let published = async { self.publish_into(&flow).await };
            tokio::try_join!(published, receive(&flow))
        };
        let ended = tokio::select! {
            all = all => all?.1,
            come = flow.stalled() => bail!(
                "only {come} of {} events have come, and no more for 5 s: look whether the daemon was restarted, for drops with `event-manager services` and `event-manager top`, and for a small queue or limits.maxMessageBytes in the daemon's configuration",
                self.events
            ),
        };
        Ok(Measured {
            took: ended - flow.began(),
            latencies: flow.latencies(),
        })
    }

    async fn subscribe(&self, mut progress: Progress) -> anyhow::Result<Measured> {
        let mut events = self.hub.subscribe([&self.name]).await?;
        self.hub.flush().await?;
        let receive = async |flow: &Flow| {
            while progress.events() < self.events {
                let event = events.next().await.context("the subscription ended")?;
                progress.add(flow.has_come(event.body()).into());
            }
            Ok(now())
        };
        self.until_all_has_come(self.flow(), receive).await
    }

    async fn start_worker(&self) -> anyhow::Result<Service> {
        let service = self.hub.service(&self.name);
        let service = service.subjects([format!("exact:{}", self.name)]);
        let service = service.credit(u32::try_from(self.window).unwrap_or(u32::MAX));
        let service = match self.durable {
            true => service.durable(),
            false => service.live(),
        };
        Ok(service.start().await?)
    }

    async fn work(&self, worker: &mut Service, mut progress: Progress) -> anyhow::Result<Measured> {
        self.hub.flush().await?;
        let receive = async |flow: &Flow| {
            while progress.events() < self.events {
                let delivery = worker.next().await.context("the service ended")??;
                progress.add(flow.has_come(delivery.body()).into());
                delivery.ack();
            }
            Ok(now())
        };
        self.until_all_has_come(self.flow(), receive).await
    }

    /// A durable service that nobody works for.
    fn subscription(&self) -> Value {
        json!({
            "token": "subscribe", "id": self.name, "service": self.name, "delivery": "queue",
            "subjects": [format!("exact:{}", self.name)],
        })
    }

    async fn confirm(&self, mut progress: Progress) -> anyhow::Result<Measured> {
        let level = match self.durable {
            true => Level::Disk,
            false => Level::Memory,
        };
        let flow = Flow::new(self.events, self.rate, u64::MAX);
        let mut emits = JoinSet::new();
        let mut note = |emitted: Result<anyhow::Result<(u64, Duration)>, JoinError>| {
            let (number, took) = emitted.map_err(|error| anyhow!(error))??;
            flow.note(number, took.as_nanos() as u64, now());
            progress.add(1);
            anyhow::Ok(())
        };
        for _ in 0..self.events {
            while emits.len() as u64 >= self.window
                && let Some(emitted) = emits.join_next().await
            {
                note(emitted)?;
            }
            let number = flow.next().await;
            let (hub, name) = (self.hub.clone(), self.name.clone());
            let body = Bytes::from(vec![0; self.size]);
            emits.spawn(async move {
                let sent_at = now();
                hub.emit_bytes(&name, body).level(level).await?;
                // Here: who joins it may be waiting for something else.
                anyhow::Ok((number, now() - sent_at))
            });
        }
        while let Some(emitted) = emits.join_next().await {
            note(emitted)?;
        }
        Ok(Measured {
            took: now() - flow.began(),
            latencies: flow.latencies(),
        })
    }
}
