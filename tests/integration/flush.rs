//! `preshard flush` with a real Postgres: whoever is killed, stopped or cut off, and wherever, the sum in SQL is what was
//! acknowledged to those who counted.

mod basics;
mod chain;
mod crash;
mod examples;
mod kit;
mod moves;
mod outage;
mod peer;
mod postgres;
mod scripted;
mod shim;
