//! The write side as a whole: the loop over the real stores and channels, the stores' suite, data files of all sorts, and
//! what only Postgres can do wrong.

mod apply;
mod broker;
mod database;
mod files;
mod fill;
mod kafka;
mod kafka_faults;
mod kept_log;
mod leases;
mod postgres;
mod process;
mod proxy;
mod reads;
mod redis;
mod redis_server;
mod store;
mod support;
