//! How the numbers of the families are read: sums over the workers, one row for each label value.

use super::Sources;
use super::cell::{Cell, Gauge, Histogram, HistogramTotal};
use super::expose::{Emit, Scrape};
use super::labels::Label;
use super::process::ProcessFigures;
use super::worker::{NodeCells, WorkerMetrics};

pub(super) fn process(s: &Scrape<'_>, out: &mut Emit, figure: fn(&ProcessFigures) -> f64) {
    if let Some(figures) = &s.process {
        out.row(&[], figure(figures));
    }
}

pub(super) fn each_cell<L: Label>(s: &Scrape<'_>, out: &mut Emit, cell: fn(&WorkerMetrics, L) -> &Cell) {
    for &label in L::ALL {
        out.count(&[label.name()], s.sum(|w| cell(w, label).load()));
    }
}

pub(super) fn each_gauge<L: Label>(s: &Scrape<'_>, out: &mut Emit, gauge: fn(&WorkerMetrics, L) -> &Gauge) {
    for &label in L::ALL {
        out.count(&[label.name()], s.sum(|w| gauge(w, label).load()));
    }
}

/// Rows of the touched commands, and always one for `other`.
pub(super) fn commands(s: &Scrape<'_>, out: &mut Emit, value: fn(&WorkerMetrics, usize) -> u64) {
    for (index, name) in s.command_names.iter().enumerate() {
        let sum = s.sum(|w| value(w, index));
        if sum > 0 {
            out.count(&[name], sum);
        }
    }
    out.count(&["other"], s.sum(|w| value(w, usize::MAX)));
}

pub(super) fn shards(s: &Scrape<'_>, out: &mut Emit, value: fn(&WorkerMetrics, usize) -> u64) {
    for index in 0..s.shards {
        out.count(&[&index.to_string()], s.sum(|w| value(w, index)));
    }
}

pub(super) fn nodes(s: &Scrape<'_>, out: &mut Emit, value: fn(&NodeCells) -> u64, shape: fn(u64) -> u64) {
    for name in &s.nodes {
        out.count(&[name], shape(s.node_sum(name, value)));
    }
}

impl Sources {
    pub(super) fn sum(&self, value: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.all().map(value).sum()
    }

    pub(super) fn histogram(&self, of: impl Fn(&WorkerMetrics) -> &Histogram) -> HistogramTotal {
        let mut total = HistogramTotal::default();
        self.all().for_each(|worker| of(worker).add_to(&mut total));
        total
    }

    pub(super) fn node_sum(&self, name: &str, value: impl Fn(&NodeCells) -> u64) -> u64 {
        self.all()
            .filter_map(|worker| worker.known_node(name))
            .map(|cells| value(&cells))
            .sum()
    }

    pub(super) fn node_histogram(&self, name: &str) -> HistogramTotal {
        let mut total = HistogramTotal::default();
        self.all()
            .filter_map(|worker| worker.known_node(name))
            .for_each(|n| n.duration.add_to(&mut total));
        total
    }
}
