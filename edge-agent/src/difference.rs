//! What is different between the configuration in force and the one in the file: pure.

use crate::config::{AgentHealth, Config, Host, Line, Listen, Replay};
use crate::handed::Class;
use crate::keeper::Settings;

/// One intake that shall run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    AgentHealth(AgentHealth),
    Host(Host),
    Line(Line),
    Replay(Replay),
}

impl Wanted {
    /// All intakes of a configuration, no two with one name.
    pub(crate) fn all(config: &Config) -> Vec<Wanted> {
        let own = config.agent_health.iter().cloned().map(Wanted::AgentHealth);
        let host = config.host.iter().cloned().map(Wanted::Host);
        let lines = config.lines.iter().cloned().map(Wanted::Line);
        let replays = config.replays.iter().cloned().map(Wanted::Replay);
        own.chain(host).chain(lines).chain(replays).collect()
    }

    /// Which class its readings are of.
    pub(crate) fn class(&self) -> Class {
        match self {
            Wanted::AgentHealth(options) => options.class,
            Wanted::Host(options) => options.class,
            Wanted::Line(options) => options.class,
            Wanted::Replay(options) => options.class,
        }
    }

    /// What it is called in `/status`, and whether it is the same one with other settings.
    pub(crate) fn name(&self) -> String {
        match self {
            Wanted::AgentHealth(_) => "health".to_owned(),
            Wanted::Host(_) => "host".to_owned(),
            Wanted::Line(line) => line.listen.to_string(),
            Wanted::Replay(replay) => format!("replay {}", replay.file.display()),
        }
    }
}

/// The first setting that a running agent cannot change, as a text for the operator.
pub(crate) fn needs_restart(old: &Config, new: &Config) -> Option<String> {
    let is_stdin = |line: &&Line| line.listen == Listen::Stdin;
    let stdin = |config: &Config| config.lines.iter().find(is_stdin).cloned();
    let key = if old.agent != new.agent {
        "agent.id"
    } else if old.data_dir != new.data_dir {
        "agent.data_dir"
    } else if old.buffer.bytes_max != new.buffer.bytes_max {
        // The journal's files are laid out for it.
        "buffer.bytes_max"
    } else if old.classes != new.classes {
        // What is on disk knows its class by its place.
        "class"
    } else if old.ledger != new.ledger {
        "ledger.file"
    } else if stdin(old) != stdin(new) {
        // A read of standard input cannot be called off.
        "intake.line.listen = \"stdin\""
    } else {
        return None;
    };
    Some(format!(
        "`{key}` is another one, which a running agent cannot follow: restart it, or put the old \
         value back"
    ))
}

/// What the keeper can follow.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        batch: crate::batcher::BatchOptions {
            rows_max: config.batch.rows_max,
            bytes_max: config.batch.bytes_max,
            linger: config.batch.linger,
        },
        window: crate::window::WindowOptions {
            batches_max: config.window.batches_max,
            bytes_max: config.window.bytes_max,
            backlog_share_percent: config.window.backlog_share_percent,
            bytes_per_second_max: config.uplink.bytes_per_second_max,
            backlog_hours: config.uplink.backlog_hours,
        },
        ram_bytes_max: config.buffer.ram_bytes_max,
        max_unsafe: config.buffer.max_unsafe,
        servers: config.uplink.servers.clone(),
        keep_alive: config.uplink.keep_alive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(id: &str, more: &str) -> Config {
        let text = format!(
            "[agent]\nid = \"{id}\"\ndata_dir = \"data\"\n[uplink]\nservers = [\"h:1\"]\n\
             ca = \"ca\"\ncert = \"cert\"\nkey = \"key\"\n{more}"
        );
        Config::parse(&text, Path::new("/etc/agent.toml")).unwrap()
    }

    #[test]
    fn what_a_running_agent_cannot_follow_is_named() {
        let old = config("gw1", "");
        let harmless = "[batch]\nlinger_ms = 7\n[buffer]\nmax_unsafe_ms = 7\n[intake.host]\n";
        assert_eq!(needs_restart(&old, &config("gw1", harmless)), None);
        for (new, key) in [
            (config("gw2", ""), "`agent.id`"),
            (
                config("gw1", "[buffer]\nbytes_max = 16777216\n"),
                "`buffer.bytes_max`",
            ),
            (config("gw1", "[ledger]\nfile = \"l\"\n"), "`ledger.file`"),
            (
                config("gw1", "[[intake.line]]\nlisten = \"stdin\"\n"),
                "stdin",
            ),
        ] {
            let told = needs_restart(&old, &new).unwrap();
            assert!(told.contains(key) && told.contains("restart"), "{told}");
        }
    }

    #[test]
    fn an_intake_keeps_its_name_when_its_settings_change() {
        let line = "[[intake.line]]\nlisten = \"tcp://127.0.0.1:8094\"\n";
        let one = Wanted::all(&config("gw1", line));
        let other = Wanted::all(&config("gw1", &format!("{line}ack = true\n")));
        assert_eq!(one[0], other[0]);
        assert_ne!(one[1], other[1]);
        assert_eq!(one[1].name(), other[1].name());
    }
}
