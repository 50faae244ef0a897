//! The scenarios: one file for each behaviour that a user sees, in the order of
//! a user's way through the product.

mod device_to_workload_http;
mod device_to_workload_tcp;
mod workload_to_device;

mod default_deny;
mod exposed_app;
mod foreign_policy;
mod revocation;

mod name_of_another;
mod ticket_twice;
mod wrong_ticket;

mod job;
mod uninjected_pod;

mod better_link_returns;
mod quic_on_a_bad_radio;
mod roaming;
mod websocket_through_a_proxy;

mod authority_restart;
mod drain;
mod flood;
mod operator_restart;
mod relay_killed_under_load;
mod relay_restart;

mod cli_errors;
mod malformed_resources;
