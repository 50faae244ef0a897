//! The binary: arguments, terminal and exit code, and nothing else.

use std::error::Error as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use fairway_cli::args::Args;
use fairway_cli::console::Console;
use fairway_cli::{Error, Outcome, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let terminal = err.is_terminal();
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        terminal,
    };
    match run(args, &mut console, jiff::Timestamp::now()).await {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::FAILURE,
        // `kubectl fairway ... | head` is no mishap.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            // Libraries tend to repeat their causes; one telling is enough.
            let mut told = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let text = cause.to_string();
                if !told.contains(&text) {
                    eprintln!("  because: {text}");
                    told = text;
                }
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}
