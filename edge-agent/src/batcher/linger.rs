//! How long readings wait for others, class by class.

use std::time::Duration;

use crate::handed::{CLASSES_MAX, Class};

/// Zero is urgent: a batch of its own, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linger {
    usual: Duration,
    /// Of the classes that have their own.
    classes: [Option<Duration>; CLASSES_MAX],
}

impl Linger {
    /// Whatever the class.
    pub const fn of_all(linger: Duration) -> Linger {
        Linger {
            usual: linger,
            classes: [None; CLASSES_MAX],
        }
    }

    /// One class has its own.
    #[must_use]
    pub fn but(mut self, class: Class, linger: Duration) -> Linger {
        self.classes[usize::from(class.0)] = (linger != self.usual).then_some(linger);
        self
    }

    /// Of the classes that have none of their own.
    pub fn usual(&self) -> Duration {
        self.usual
    }

    pub fn of(&self, class: Class) -> Duration {
        self.classes[usize::from(class.0)].unwrap_or(self.usual)
    }
}
