//! The command line of the comparison.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::subject::Kind;

/// Rounds and seconds per sample of a run that judges gates.
const FULL: (usize, f64) = (7, 1.5);
/// The same of a run that only looks whether everything works and roughly where it stands.
const QUICK: (usize, f64) = (2, 0.4);

/// Compare preshard with direct Redis, twemproxy and HAProxy on the same two nodes.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Args {
    /// Rounds over all cases and subjects; medians are taken over them [default: 7, with --quick 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of one load in seconds [default: 1.5, with --quick 0.4]
    #[arg(long)]
    seconds: Option<f64>,
    /// Which process may run on which core
    #[arg(long, value_enum, default_value_t = Pin::One)]
    pub(crate) pin: Pin,
    /// Only these cases, by name (an unknown name lists them all)
    #[arg(long, value_delimiter = ',', value_name = "CASE,…")]
    pub(crate) only: Vec<String>,
    /// The subjects, in the order of their turns
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SUBJECT,…",
          default_values_t = [Kind::Direct, Kind::Preshard, Kind::Twemproxy, Kind::Haproxy])]
    pub(crate) subjects: Vec<Kind>,
    /// Short loads and few rounds: too noisy for the gates
    #[arg(long)]
    pub(crate) quick: bool,
    /// End with status 1 if a gate is missed
    #[arg(long)]
    pub(crate) check: bool,
    /// Replace the recorded run of this page (between its two markers) by this one
    #[arg(long, value_name = "PAGE")]
    pub(crate) record: Option<PathBuf>,
    /// Where the figures of every round go
    #[arg(long, value_name = "FILE", default_value = "target/bench/compare.json")]
    pub(crate) json: PathBuf,
    /// The preshard binary [default: the one that cargo built beside this bench]
    #[arg(long, env = "PRESHARD_BIN", value_name = "FILE")]
    preshard: Option<PathBuf>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// Who runs where. One core for all is the steadiest: nothing migrates, nothing overlaps, the gates are judged in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// Load generator, proxy and nodes share one core.
    One,
    /// The load generator has a core, proxy and nodes share another.
    Lg,
    /// The scheduler decides; preshard has one worker per core.
    None,
}

impl Args {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds
            .unwrap_or(if self.quick { QUICK.0 } else { FULL.0 })
            .max(1)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.seconds
            .unwrap_or(if self.quick { QUICK.1 } else { FULL.1 })
            .clamp(0.05, 60.0)
    }

    pub(crate) fn preshard_bin(&self) -> PathBuf {
        self.preshard
            .clone()
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_preshard")))
    }
}

impl Pin {
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::One => "one (everything on one core)",
            Self::Lg => "lg (load generator on one core, proxy and nodes on another)",
            Self::None => "none (the scheduler decides)",
        }
    }
}
