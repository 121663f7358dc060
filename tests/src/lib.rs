//! The harness: the three binaries as real processes on loopback, faults for them, and the oracle
//! that says whether what they promise held.
//!
//! `it/` uses all of it; the quickstart uses the part that starts a system. In reading order:
//! `binaries` builds, `loopback` finds addresses, `process` owns a child, `wait` polls with a
//! deadline, `cluster` and `agent` are the system under test, `sql` reads it; `source` hands
//! readings to an agent and keeps a `ledger`, `bulk` hands over a day of them at once, `oracle`
//! compares the ledger with the rows, `history` judges every read of a simulation, `proxy` hurts a
//! connection, `disk` is one whose power can be cut, `net` a network whose packets can be lost,
//! `trace` tampers with system calls, `clock` lies about the time, `dice` chooses what breaks next,
//! `long` says how much of it, `skip` why a test cannot
//! run here, `seeded` reads the bugs that prove all of it.

pub mod binaries;
pub mod loopback;
pub mod process;
pub mod wait;
pub mod cluster;
pub mod agent;
pub mod sql;
pub mod ledger;
pub mod oracle;
pub mod history;
pub mod source;
pub mod bulk;
pub mod proxy;
pub mod dice;
pub mod disk;
pub mod net;
pub mod trace;
pub mod clock;
pub mod long;
pub mod skip;
pub mod seeded;
