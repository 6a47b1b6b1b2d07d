//! `pgw` as its users meet it: the binary itself, on memory and on a real PostgreSQL.

mod backups;
mod browser;
mod command;
mod configuration;
mod observing;
mod operating;
mod privacy;
mod redis;
mod seed;
mod serving;
