//! The device side of Fairway, as a library: what the binary `fairway-device`
//! does, for programs that want to be a device themselves.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fairway_device::{Config, Device, StateDir};
//!
//! let state = std::sync::Arc::new(StateDir::open("/var/lib/fairway")?);
//! if state.enrolment()?.is_none() {
//!     fairway_device::join(&state, &std::env::var("TICKET")?.parse()?).await?;
//! }
//! let device = Device::start(&state, Config::default()).await?;
//! let mut stream = device.open(&"collector.factory.svc.fairway.internal:8080".parse()?).await?;
//! tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`StateDir`] (what is kept on disk), [`join()`] (enrolment),
//! [`Device`] (running), [`Config`].

mod config;
mod join;
mod run;
mod state;

pub use self::config::{ClockConfig, Config, ConfigError, InletConfig, ProxyUrl, ServiceConfig};
pub use self::join::{JoinError, join, join_with};
pub use self::run::{Device, RunError};
pub use self::state::{Enrolment, StateDir, StateError};
pub use fairway_endpoint::{DatagramError, OpenError, Status, Stream, StreamError};
pub use fairway_identity::{Destination, Ticket, TicketError};
