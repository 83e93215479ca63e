//! The metrics core from outside: pages against `prometheus_client`'s, properties, races, speed.

mod pages;
mod parser;
mod properties;
mod races;
mod shared;
mod speed;
