//! One command, the whole system on this machine: three aggregators, one agent that reads this
//! machine, a live table by SQL; with `--seconds` a proof that every reading is stored once.
//!
//! `system` starts and stops, `screen` draws, `failover` kills the leader, `ledger` reads what the
//! agent kept, `compare` holds it against SQL row by row.

mod system;
mod screen;
mod failover;
mod ledger;
mod compare;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use harness::binaries::Binaries;
use harness::wait;

use crate::compare::Verdict;
use crate::screen::Screen;
use crate::system::System;

/// When `--kill-leader` strikes: the table has been seen by then.
const KILL_AFTER: Duration = Duration::from_secs(10);
const REDRAW: Duration = Duration::from_secs(1);

/// Runs Tributary on this machine: three nodes, one agent, real readings. Ctrl-C stops it all.
#[derive(Debug, Parser)]
#[command(name = "quickstart")]
struct Args {
    /// End after so many seconds: exit status 0 only if every reading is stored exactly once
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Keep everything in this folder, which must not exist; else a temporary one is used
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Kill the leader after ten seconds and show the fail-over
    #[arg(long)]
    kill_leader: bool,
    /// Alter one row of the ledger before the comparison, which must then fail
    #[arg(long, hide = true, requires = "seconds")]
    tamper: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let stop = stop_on_signal();
    match run(&args, &stop) {
        Ok(exit) => exit,
        Err(_) if stop.load(Ordering::Relaxed) => {
            say("stopped");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(io::stderr(), "quickstart: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, stop: &AtomicBool) -> Result<ExitCode, String> {
    say("building the three programs (the first time takes minutes)");
    let binaries = Binaries::build()?;
    let mut system = System::start(&binaries, args.dir.as_deref())?;
    say(&system.invitation());
    watch(args, stop, &mut system)?;
    if args.seconds.is_none() || stop.load(Ordering::Relaxed) {
        system.stop()?;
        say("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = prove(args, &mut system)?;
    say(&verdict.to_string());
    system.stop()?;
    Ok(if verdict.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Redraws the table every second until the time is over or someone presses Ctrl-C.
fn watch(args: &Args, stop: &AtomicBool, system: &mut System) -> Result<(), String> {
    let start = wait::now();
    let end = args.seconds.map(Duration::from_secs);
    let mut screen = Screen::new();
    let mut killed = !args.kill_leader;
    let ended = |killed: bool| killed && end.is_some_and(|end| start.elapsed() >= end);
    while !stop.load(Ordering::Relaxed) && !ended(killed) {
        if !killed && start.elapsed() >= KILL_AFTER {
            killed = true;
            for line in failover::show(system)? {
                screen.note(&line);
            }
        }
        screen.draw(start.elapsed(), system);
        thread::sleep(REDRAW);
    }
    Ok(())
}

/// Stops the agent and compares what it kept with what SQL gives.
fn prove(args: &Args, system: &mut System) -> Result<Verdict, String> {
    say("stopping the agent; comparing its ledger with SQL, row by row");
    system.stop_agent()?;
    if args.tamper {
        ledger::tamper(system.ledger())?;
    }
    let verdict = compare::compare(system)?;
    if verdict.missing() == 0 {
        return Ok(verdict);
    }
    // What it could not hand over in time is on its disk: that is what the disk is for.
    say("the agent still holds readings; it hands them over");
    system.drain_agent()?;
    compare::compare(system)
}

/// Ctrl-C and SIGTERM set a flag; the loop above looks at it.
fn stop_on_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let waiting = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for two signals");
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        told.store(true, Ordering::Relaxed);
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(waiting)
        .expect("a thread for signals");
    stop
}

/// A line for the person who watches.
fn say(line: &str) {
    // Who closed the terminal does not want to know.
    let _ = writeln!(io::stdout(), "{line}");
}
