//! The table: medians over the rounds, and each phase against the one without a crowd.

use crate::Phase;
use crate::ordinary::Latencies;

/// What one phase of one round brought.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) published: u64,
    pub(crate) deliveries: u64,
    pub(crate) proxy_cpu_ns: u64,
    pub(crate) latencies: Latencies,
}

#[derive(Debug)]
pub(crate) struct Report(Vec<(Phase, Vec<Figures>)>);

impl Report {
    pub(crate) fn new(phases: &[Phase]) -> Self {
        Self(phases.iter().map(|&phase| (phase, Vec::new())).collect())
    }

    pub(crate) fn add(&mut self, phase: Phase, figures: Figures) {
        if let Some((_, rounds)) = self.0.iter_mut().find(|(known, _)| *known == phase) {
            rounds.push(figures);
        }
    }

    pub(crate) fn print(&self, load: u32) {
        println!(
            "{load} ordinary requests a second; medians of {} rounds.\n",
            self.0[0].1.len()
        );
        println!(
            "| phase | messages/s | deliveries/s | p50 µs | p99 µs | p99.9 µs | p99 to alone | p99 µs direct | \
             direct to alone | proxy CPU µs/request | CPU µs/delivery |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        let alone = &self.0[0].1;
        let p99_alone = median(alone, |figures| at(&figures.latencies.proxy, 0.99));
        let direct_alone = median(alone, |figures| at(&figures.latencies.direct, 0.99));
        let cpu_alone = median(alone, |figures| figures.proxy_cpu_ns as f64);
        for (phase, rounds) in &self.0 {
            let of = |figure: fn(&Figures) -> f64| median(rounds, figure);
            let p99 = of(|figures| at(&figures.latencies.proxy, 0.99));
            let direct = of(|figures| at(&figures.latencies.direct, 0.99));
            let deliveries = of(|figures| figures.deliveries as f64);
            let cpu = of(|figures| figures.proxy_cpu_ns as f64);
            let per_delivery = match phase {
                Phase::Alone | Phase::Standing => String::new(),
                Phase::Rate(_) | Phase::FullSpeed => {
                    format!("{:.2}", (cpu - cpu_alone) / deliveries / 1000.0)
                }
            };
            println!(
                "| {} | {:.0} | {:.0} | {:.0} | {p99:.0} | {:.0} | {:.2} | {direct:.0} | {:.2} | {:.1} | {per_delivery} |",
                name(*phase),
                of(|figures| figures.published as f64 / figures.seconds),
                of(|figures| figures.deliveries as f64 / figures.seconds),
                of(|figures| at(&figures.latencies.proxy, 0.5)),
                of(|figures| at(&figures.latencies.proxy, 0.999)),
                p99 / p99_alone,
                direct / direct_alone,
                of(|figures| figures.proxy_cpu_ns as f64 / 1000.0 / figures.latencies.proxy.len() as f64),
            );
        }
    }
}

fn name(phase: Phase) -> String {
    match phase {
        Phase::Alone => "alone".to_owned(),
        Phase::Standing => "crowd, nothing published".to_owned(),
        Phase::Rate(rate) => format!("crowd, {rate} messages/s"),
        Phase::FullSpeed => "crowd, full speed".to_owned(),
    }
}

/// The value below which this part of sorted values lies.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below the length"
)]
fn at(sorted: &[u64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part) as usize;
    sorted
        .get(place.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0) as f64
}

fn median(rounds: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
