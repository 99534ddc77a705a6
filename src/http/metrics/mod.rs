//! The state as metrics: OpenMetrics, or the older text format for those who ask for it.

mod bridges;
mod counters;
mod families;
mod instances;
mod lease;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::health::Watched;
use super::snapshot::Snapshot;
use event_manager_core::broker::BUCKETS_US;
use event_manager_wire::api::{Histogram, Readiness};

/// The content type of OpenMetrics.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// That of the older format.
pub(super) const PLAIN_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics as OpenMetrics.
pub(super) fn write(snapshot: &Arc<Snapshot>, watched: &Watched) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(State {
        readiness: watched.readiness(Ok(snapshot)),
        is_registered: watched.is_registered(),
        snapshot: Arc::clone(snapshot),
    }));
    let mut written = String::new();
    // A string takes all that is written to it.
    let _ = text::encode(&mut written, &registry);
    written
}

/// OpenMetrics as the older format, in which a counter's name has its suffix in its description too.
pub(super) fn in_plain_text(openmetrics: &str) -> String {
    let mut plain = String::with_capacity(openmetrics.len() + openmetrics.len() / 8);
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described;
        } else if let Some((name, kind)) = described_type(line) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let about = help.strip_prefix(name).unwrap_or_default();
            plain.push_str(&format!("# HELP {name}{suffix}{about}\n"));
            plain.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            plain.push_str(line);
            plain.push('\n');
        }
    }
    plain
}

fn described_type(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

/// What the metrics are made from.
#[derive(Debug)]
struct State {
    snapshot: Arc<Snapshot>,
    readiness: Readiness,
    is_registered: bool,
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder };
        families::daemon(&mut page, self)?;
        families::process(&mut page, self)?;
        families::forwarder(&mut page, &self.snapshot.status)?;
        families::services(&mut page, &self.snapshot.status)?;
        bridges::bridges(&mut page, &self.snapshot.status.bridges)?;
        instances::instances(&mut page, &self.snapshot.status)?;
        lease::lease(&mut page, &self.snapshot.status)
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Metrics on their way into a text. Names are without the suffixes of their kinds.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn counters<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => family.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
                false => family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(vec![], value)])
    }

    fn gauges<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, f64)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => family.encode_gauge(&value)?,
                false => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(vec![], value)])
    }

    /// Histograms as the status has them.
    fn histograms<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, &'s Histogram)>,
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, histogram) in samples {
            let counts = histogram.counts.iter().copied();
            let bounds = BUCKETS_US.iter().map(|us| *us as f64 / 1e6);
            let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_in_full() {
        let openmetrics = "# HELP a_b What it is.\n# TYPE a_b counter\na_b_total{c=\"# EOF\"} 1\n\
            # HELP d Other.\n# TYPE d gauge\nd 2\n# EOF\n";
        let plain = "# HELP a_b_total What it is.\n# TYPE a_b_total counter\na_b_total{c=\"# EOF\"} 1\n\
            # HELP d Other.\n# TYPE d gauge\nd 2\n";
        assert_eq!(in_plain_text(openmetrics), plain);
    }
}
