//! preshard: a sharding proxy for Redis and Valkey.

pub mod acl;
pub mod admin;
pub mod audit;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
#[cfg(feature = "flush")]
pub mod flush;
pub mod helper;
pub mod http;
pub mod ids;
pub mod logging;
pub mod merge;
pub mod metrics;
pub mod migration;
pub mod plan;
pub mod proxy;
pub mod rdb;
pub mod resp;
pub mod route;
pub mod store;
pub mod tls;
pub mod topology;
pub mod worker;
