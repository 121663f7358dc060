//! A network of a run's own: each node is a host in a network namespace, all of them on one bridge
//! with this machine, so that packets between them can be dropped one way, in part, or slowed down.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::OnceLock;

use crate::process;

/// 198.18.0.0/15 is set aside for tests of networks (RFC 2544): nobody has it in use.
const NETWORK: [u8; 2] = [198, 18];
/// Tries to find a number that no other run has.
const NUMBERS: u8 = 200;
/// Debian's; the name alone may be another program.
const TC: &str = "/sbin/tc";
const IPTABLES: &str = "/usr/sbin/iptables";

/// Hosts on a bridge; all of it is gone when dropped.
#[derive(Debug)]
pub struct Net {
    number: u8,
    hosts: usize,
}

impl Net {
    /// Makes a network with so many hosts. The bridge's name is the lock against other runs.
    pub fn make(hosts: usize) -> Result<Net, String> {
        let mut why = String::new();
        for number in 1..=NUMBERS {
            let bridge = bridge(number);
            match ip(&["link", "add", &bridge, "type", "bridge"]) {
                Ok(()) => {
                    let net = Net { number, hosts };
                    // Dropped on an error: what was made of it goes again.
                    net.connect()?;
                    return Ok(net);
                }
                Err(taken) => why = taken,
            }
        }
        Err(why)
    }

    fn connect(&self) -> Result<(), String> {
        let bridge = bridge(self.number);
        let own = format!("{}/24", address(self.number, 1));
        ip(&["addr", "add", &own, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for at in 0..self.hosts {
            let (space, outer) = (self.namespace(at), self.outer(at));
            let inner = format!("{}/24", self.address(at));
            ip(&["netns", "add", &space])?;
            ip(&[
                "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ])?;
            ip(&["link", "set", &outer, "master", &bridge, "up"])?;
            ip(&["-n", &space, "addr", "add", &inner, "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    pub fn hosts(&self) -> usize {
        self.hosts
    }

    pub fn address(&self, host: usize) -> IpAddr {
        let nth = u8::try_from(host).unwrap_or(u8::MAX - 10);
        IpAddr::V4(address(self.number, nth + 10))
    }

    /// The name of a host's namespace, as in `/run/netns`.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", bridge(self.number))
    }

    fn outer(&self, host: usize) -> String {
        format!("{}v{host}", bridge(self.number))
    }

    /// From now on nothing that `from` sends arrives at `to`.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        let from = self.address(from).to_string();
        self.filter(to, &["-A", "INPUT", "-s", &from, "-j", "DROP"])
    }

    /// From now on nothing comes to `host` and nothing leaves it.
    pub fn silence(&self, host: usize) -> Result<(), String> {
        self.filter(host, &["-A", "INPUT", "-i", "eth0", "-j", "DROP"])?;
        self.filter(host, &["-A", "OUTPUT", "-o", "eth0", "-j", "DROP"])
    }

    /// From now on each packet that comes to `host` is lost with this chance, 0 to 1.
    pub fn lose(&self, host: usize, chance: f64) -> Result<(), String> {
        let chance = chance.to_string();
        let random = ["-m", "statistic", "--mode", "random", "--probability"];
        let mut rule = vec!["-A", "INPUT", "-i", "eth0"];
        rule.extend(random);
        rule.extend([chance.as_str(), "-j", "DROP"]);
        self.filter(host, &rule)
    }

    /// From now on `host` sends at most so many kbit/s; what waits longer than `wait_ms` is lost.
    pub fn narrow(&self, host: usize, kbits: u32, wait_ms: u32) -> Result<(), String> {
        let (rate, latency) = (format!("{kbits}kbit"), format!("{wait_ms}ms"));
        let mut command = self.inside(host, TC);
        command.args(["qdisc", "replace", "dev", "eth0", "root", "tbf"]);
        command.args(["rate", &rate, "burst", "8kb", "latency", &latency]);
        process::run(&mut command).map(|_told| ())
    }

    /// All packets arrive again.
    pub fn heal(&self) -> Result<(), String> {
        for host in 0..self.hosts {
            self.filter(host, &["-F"])?;
            let mut command = self.inside(host, TC);
            // There may be none to take away.
            let _ = process::run(command.args(["qdisc", "del", "dev", "eth0", "root"]));
        }
        Ok(())
    }

    fn filter(&self, host: usize, rule: &[&str]) -> Result<(), String> {
        let mut command = self.inside(host, IPTABLES);
        process::run(command.arg("-w").args(rule)).map(|_told| ())
    }

    /// A command that runs on a host.
    fn inside(&self, host: usize, program: &str) -> Command {
        inside(&self.namespace(host), program)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // Its end of the wire goes with it, sooner or later: the other one now.
            let _ = ip(&["link", "del", &self.outer(host)]);
            let _ = ip(&["netns", "del", &self.namespace(host)]);
        }
        let _ = ip(&["link", "del", &bridge(self.number)]);
    }
}

/// A command that runs in a network namespace and else is as any other: `ip netns exec` would give
/// it mounts of its own, which keep file systems alive that are unmounted here.
pub fn inside(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    command.arg(program);
    command
}

fn bridge(number: u8) -> String {
    format!("tributary{number}")
}

fn address(number: u8, host: u8) -> Ipv4Addr {
    let [first, second] = NETWORK;
    Ipv4Addr::new(first, second, number, host)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    process::run(Command::new("/sbin/ip").args(arguments)).map(|_told| ())
}

/// Why this machine has no networks to break, if so: one is made and broken to see.
pub fn cannot() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let try_all = || {
            let net = Net::make(2)?;
            net.cut(0, 1)?;
            net.lose(1, 0.2)?;
            net.narrow(0, 256, 400)?;
            net.heal()
        };
        let why: String = try_all().err()?;
        Some(format!(
            "no network can be cut here ({why}): it needs root, and apt-get install iproute2 iptables"
        ))
    };
    FOUND.get_or_init(look).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip::skip;

    #[test]
    fn what_is_cut_does_not_arrive_and_nothing_is_left_behind() {
        if let Some(why) = cannot() {
            skip(&why);
            return;
        }
        let net = Net::make(2).unwrap();
        let reaches = |from: usize, to: usize| {
            let mut command = net.inside(from, "bash");
            let address = net.address(to);
            command.args(["-c", &format!("timeout 1 bash -c '</dev/tcp/{address}/7'")]);
            let told = process::run(&mut command);
            // Nobody listens there: the refusal comes from there all the same.
            told.is_err_and(|why| why.contains("Connection refused"))
        };
        assert!(reaches(0, 1) && reaches(1, 0));
        net.cut(0, 1).unwrap();
        assert!(!reaches(0, 1) && !reaches(1, 0), "an answer is lost too");
        net.heal().unwrap();
        assert!(reaches(0, 1));
        net.silence(0).unwrap();
        assert!(!reaches(0, 1) && !reaches(1, 0));
        net.heal().unwrap();
        net.lose(1, 1.0).unwrap();
        assert!(!reaches(0, 1));
        net.heal().unwrap();
        net.narrow(1, 256, 400).unwrap();
        assert!(reaches(0, 1));

        let space = net.namespace(0);
        drop(net);
        assert!(!std::path::Path::new("/run/netns").join(space).exists());
    }
}
