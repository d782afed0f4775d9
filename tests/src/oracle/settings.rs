//! The number of worlds and their seeds, from the environment.

use std::ops::Range;

/// Environment variable with the number of worlds.
const WORLDS: &str = "SVCLB_ORACLE_WORLDS";
/// Environment variable with the first seed.
const SEED: &str = "SVCLB_ORACLE_SEED";

/// The seeds of the worlds that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Number of worlds.
    pub worlds: u64,
    /// Seed of the first world; the others follow it.
    pub first: u64,
}

impl Default for Settings {
    /// The worlds of continuous integration.
    fn default() -> Self {
        Self { worlds: 64, first: 1 }
    }
}

impl Settings {
    /// Reads the environment, with the defaults for variables that are not set.
    ///
    /// # Panics
    /// If a variable is not a number, or there would be no world.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self::read(variable(WORLDS).as_deref(), variable(SEED).as_deref())
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn read(worlds: Option<&str>, first: Option<&str>) -> Result<Self, String> {
        let number = |name: &str, value: Option<&str>, usual: u64| {
            let Some(text) = value else { return Ok(usual) };
            text.parse().map_err(|_| format!("{name} is {text:?}, not a number"))
        };
        let usual = Self::default();
        let worlds = number(WORLDS, worlds, usual.worlds)?;
        if worlds == 0 {
            return Err(format!("{WORLDS} is 0, but must be at least 1"));
        }
        Ok(Self { worlds, first: number(SEED, first, usual.first)? })
    }

    /// The seeds of the worlds.
    pub fn seeds(self) -> Range<u64> {
        self.first..self.first.saturating_add(self.worlds)
    }

    /// The command line that compares the world of one seed.
    pub fn command_for(seed: u64) -> String {
        format!("cargo xtask oracle --seed {seed} --worlds 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_the_environment() {
        let usual = Settings::default();
        let some = |worlds, first| Ok(Settings { worlds, first });
        let rows = [
            ("not set", None, None, some(usual.worlds, usual.first)),
            ("number of worlds", Some("3"), None, some(3, usual.first)),
            ("first seed", None, Some("0"), some(usual.worlds, 0)),
            ("both", Some("200"), Some("1000"), some(200, 1000)),
        ];
        for (row, worlds, first, expected) in rows {
            assert_eq!(Settings::read(worlds, first), expected, "{row}");
        }
        assert_eq!(Settings { worlds: 2, first: 7 }.seeds(), 7..9);
    }

    #[test]
    fn invalid_settings_are_rejected() {
        for (row, worlds, first) in [
            ("none", Some("0"), None),
            ("not a number", Some("many"), None),
            ("an empty text", Some(""), None),
            ("a negative seed", None, Some("-1")),
        ] {
            let problem = Settings::read(worlds, first).expect_err(row);
            assert!(problem.starts_with("SVCLB_ORACLE_"), "{row}: {problem}");
        }
    }
}
