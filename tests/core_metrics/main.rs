//! The metrics core from outside: pages against `prometheus_client`'s, properties, races.

mod pages;
