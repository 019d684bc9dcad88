//! What the crate promises, tested from outside: what its calls do, and what is left after the power was cut.
#![allow(clippy::unwrap_used)]

mod fixture;
mod log_contract;
mod log_damage;
mod log_format;
mod log_power_cut;
mod log_process;
mod log_segments;
mod replica_power_cut;
mod state_contract;
mod state_power_cut;
