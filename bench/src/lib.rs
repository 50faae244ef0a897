//! The whole chain as processes on one machine, without a cluster: an authority
//! with throwaway keys, apps, haproxy's chains for comparison, and what is
//! measured on each.

pub mod apps;
pub mod authority;
pub mod chain;
pub mod measure;
pub mod process;

/// Lets this process, and those it starts, open as many files as it may.
///
/// # Errors
/// The system refuses.
pub fn raise_nofile() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?)
}
