//! From the table of families to the text of a scrape.
//!
//! One collector stands for all families. The registry of the `prometheus` crate sorts what it collected, and
//! its encoder writes text format 0.0.4. The numbers come out of [`Sources`] at that moment: a scrape reads
//! each cell once and holds no lock that a request could wait for.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::Sources;
use super::cell::{BUCKETS, HistogramTotal, bucket_bound_seconds};
use super::families;
use super::family::{Family, Kind, LabelName};
use super::process::ProcessFigures;

/// What one scrape reads: the sources, and what is looked up once for all families.
#[derive(Debug)]
pub struct Scrape<'a> {
    sources: &'a Sources,
    /// Names of the nodes that get rows.
    pub(super) nodes: BTreeSet<String>,
    /// Figures of this process, where there are any.
    pub(super) process: Option<ProcessFigures>,
}

impl Deref for Scrape<'_> {
    type Target = Sources;

    fn deref(&self) -> &Sources {
        self.sources
    }
}

/// Takes the rows of one family, each a list of label values and a number.
#[derive(Debug)]
pub struct Emit {
    family: &'static Family,
    metrics: Vec<Metric>,
}

impl Emit {
    /// A row of a counter or gauge.
    pub fn row(&mut self, values: &[&str], value: f64) {
        let mut metric = Metric::from_label(self.labels(values));
        match self.family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram => debug_assert!(false, "{} is a histogram", self.family.name),
        }
        self.metrics.push(metric);
    }

    /// A row whose number is a count.
    #[allow(
        clippy::cast_precision_loss,
        reason = "counts stay exact up to 2^53, and the text format has doubles"
    )]
    pub fn count(&mut self, values: &[&str], value: u64) {
        self.row(values, value as f64);
    }

    /// A row of a histogram.
    #[allow(clippy::cast_precision_loss, reason = "the text format has doubles")]
    pub fn histogram(&mut self, values: &[&str], total: &HistogramTotal) {
        debug_assert_eq!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        let mut below = 0;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for (n, count) in total.buckets.iter().enumerate() {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bucket_bound_seconds(n));
            bucket.set_cumulative_count(below);
            buckets.push(bucket);
        }
        // The encoder writes the row of +Inf from the count.
        buckets.pop();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(below);
        histogram.set_sample_sum(total.sum_micros as f64 / 1e6);
        let mut metric = Metric::from_label(self.labels(values));
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn labels(&self, values: &[&str]) -> Vec<LabelPair> {
        debug_assert_eq!(
            values.len(),
            self.family.labels.len(),
            "labels of {}",
            self.family.name
        );
        let pair = |(label, value): (&LabelName, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name(label.name.to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        self.family.labels.iter().zip(values).map(pair).collect()
    }
}

/// The one collector.
#[derive(Debug)]
pub(super) struct FamiliesCollector {
    sources: Arc<Sources>,
    descs: Vec<Desc>,
}

impl FamiliesCollector {
    /// A collector of all families.
    ///
    /// # Errors
    /// When a name or help text in the table is not valid for Prometheus.
    pub(super) fn new(sources: Arc<Sources>) -> prometheus::Result<Self> {
        let desc = |family: &Family| {
            let labels = family.labels.iter().map(|label| label.name.to_owned()).collect();
            Desc::new(
                family.name.to_owned(),
                family.help.to_owned(),
                labels,
                HashMap::new(),
            )
        };
        Ok(Self {
            sources,
            descs: families().map(desc).collect::<Result<_, _>>()?,
        })
    }
}

impl Collector for FamiliesCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let scrape = Scrape {
            sources: &self.sources,
            nodes: self.sources.node_names(),
            process: ProcessFigures::read(),
        };
        let gather = |family: &'static Family| {
            let mut emit = Emit {
                family,
                metrics: Vec::new(),
            };
            (family.read)(&scrape, &mut emit);
            let mut out = MetricFamily::default();
            out.set_name(family.name.to_owned());
            out.set_help(family.help.to_owned());
            out.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            out.set_metric(emit.metrics);
            out
        };
        families().map(gather).collect()
    }
}
