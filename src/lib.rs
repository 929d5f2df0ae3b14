//! preshard: a sharding proxy for Redis and Valkey.

pub mod config;
pub mod http;
pub mod ids;
pub mod logging;
pub mod metrics;
pub mod resp;
pub mod topology;
