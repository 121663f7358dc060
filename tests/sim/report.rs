//! What a person reads of a seed that failed: the breach, its story, the command that repeats it.

use std::fmt::{self, Write as _};

use crate::arena::Arena;
use crate::plan::{FAULTS, SKIP};

/// Events of the story that are printed, the last of them.
const EVENTS_MAX: usize = 60;

/// The report of a run in which a promise was broken.
pub(crate) fn of(seed: u64, arena: &Arena) -> String {
    let mut text = String::from("what is broken:\n");
    for breach in arena.breaches.borrow().iter().take(8) {
        line(&mut text, format_args!("  {breach}"));
    }
    for finding in arena.findings.borrow().iter().take(8) {
        line(&mut text, format_args!("  {finding}"));
    }
    // Only what touches the agent of the first breach, and what happened to the nodes.
    let agent = arena.breaches.borrow().first().map(|breach| {
        let device = breach.device.as_str();
        device.split('-').next().unwrap_or(device).to_owned()
    });
    if let Some(breach) = arena.breaches.borrow().first() {
        let history = arena.history.borrow();
        if let Some((stream, number)) = history.batch_of(&breach.device, breach.seq) {
            let (agent, epoch, lane) = stream;
            line(
                &mut text,
                format_args!("  it is in batch {number} of {agent}, {epoch:x}/{lane}"),
            );
        }
    }
    let touches = |event: &String| {
        let is_of_agents = event.contains(" gw") || event.contains(": gw");
        let own = agent
            .as_ref()
            .is_none_or(|agent| event.contains(agent.as_str()));
        own || !is_of_agents
    };
    let events = arena.events();
    let story: Vec<_> = events.iter().filter(|event| touches(event)).collect();
    text += "the story, its end:\n";
    for event in story.iter().skip(story.len().saturating_sub(EVENTS_MAX)) {
        line(&mut text, format_args!("  {event}"));
    }
    text + &command(seed, &std::env::var(SKIP).unwrap_or_default())
}

fn line(text: &mut String, what: fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("a text takes all");
}

/// What a person types to see it again.
pub(crate) fn command(seed: u64, skipped: &str) -> String {
    let skip = match skipped {
        "" => String::new(),
        skipped => format!("{SKIP}={skipped} "),
    };
    format!(
        "again: TRIBUTARY_SIM_SEED={seed} {skip}cargo test --workspace --test sim -- one_run --exact --nocapture\n"
    )
}

/// Leaves kinds of faults out, one after the other, as long as `fails` with those that are left:
/// the list of all that are not needed.
pub(crate) fn shrink(fails: impl Fn(&str) -> bool) -> String {
    let mut skipped: Vec<&str> = Vec::new();
    for (_, name) in FAULTS {
        skipped.push(name);
        if !fails(&skipped.join(",")) {
            skipped.pop();
        }
    }
    skipped.join(",")
}
