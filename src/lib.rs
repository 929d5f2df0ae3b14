//! preshard: a sharding proxy for Redis and Valkey.

pub mod config;
pub mod ids;
pub mod metrics;
pub mod resp;
pub mod store;
pub mod topology;
