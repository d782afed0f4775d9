//! How many worlds, and which: named by the environment.

use std::ops::Range;

/// Says how many worlds are compared.
const WORLDS: &str = "SVCLB_ORACLE_WORLDS";
/// Says the seed of the first.
const SEED: &str = "SVCLB_ORACLE_SEED";

/// Which worlds are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many.
    pub worlds: u64,
    /// Seed of the first; the others follow it.
    pub first: u64,
}

impl Default for Settings {
    /// Those of continuous integration.
    fn default() -> Self {
        Self { worlds: 64, first: 1 }
    }
}

impl Settings {
    /// What the environment says, and otherwise the default.
    ///
    /// # Panics
    /// When it says something that is no number, or that nothing is compared.
    pub fn from_environment() -> Self {
        let said = |name: &str| std::env::var(name).ok();
        Self::read(said(WORLDS).as_deref(), said(SEED).as_deref())
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn read(worlds: Option<&str>, first: Option<&str>) -> Result<Self, String> {
        let number = |name: &str, said: Option<&str>, usual: u64| {
            let Some(text) = said else { return Ok(usual) };
            text.parse().map_err(|_| format!("{name} is {text:?}, not a number"))
        };
        let usual = Self::default();
        let worlds = number(WORLDS, worlds, usual.worlds)?;
        if worlds == 0 {
            return Err(format!("{WORLDS} is 0: there is nothing to compare; say at least 1"));
        }
        Ok(Self { worlds, first: number(SEED, first, usual.first)? })
    }

    /// The seeds.
    pub fn seeds(self) -> Range<u64> {
        self.first..self.first.saturating_add(self.worlds)
    }

    /// What to type to compare the world of a seed alone.
    pub fn again(seed: u64) -> String {
        format!("cargo xtask oracle --seed {seed} --worlds 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_worlds() {
        let usual = Settings::default();
        let some = |worlds, first| Ok(Settings { worlds, first });
        let rows = [
            ("nothing said", None, None, some(usual.worlds, usual.first)),
            ("how many", Some("3"), None, some(3, usual.first)),
            ("which", None, Some("0"), some(usual.worlds, 0)),
            ("both", Some("200"), Some("1000"), some(200, 1000)),
        ];
        for (row, worlds, first, expected) in rows {
            assert_eq!(Settings::read(worlds, first), expected, "{row}");
        }
        assert_eq!(Settings { worlds: 2, first: 7 }.seeds(), 7..9);
    }

    #[test]
    fn a_run_that_would_compare_nothing_is_refused() {
        for (row, worlds, first) in [
            ("none", Some("0"), None),
            ("no number", Some("many"), None),
            ("an empty number", Some(""), None),
            ("no seed", None, Some("-1")),
        ] {
            let problem = Settings::read(worlds, first).expect_err(row);
            assert!(problem.starts_with("SVCLB_ORACLE_"), "{row}: {problem}");
        }
    }
}
