//! Whole builds, with a worker that keeps layers in memory and runs a language of one command.

mod cache;
mod commands;
mod copies;
mod fake;
mod refusals;
mod stages;
