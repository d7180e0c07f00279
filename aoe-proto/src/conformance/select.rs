//! Which cases are run.

use super::case::{Case, Needs, Severity, Topic};

/// A choice of cases. The default is everything that is harmless.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'s> {
    /// Patterns of ids, with `*` for any part and `?` for any character; empty means all.
    pub ids: &'s [&'s str],
    /// Patterns of ids that are left out.
    pub except: &'s [&'s str],
    /// Topics; empty means all.
    pub topics: &'s [Topic],
    /// The least severity that is run.
    pub least: Severity,
    /// What the tester permits. A selected case that needs more is reported as skipped.
    pub permitted: Needs,
}

impl Default for Selection<'_> {
    fn default() -> Self {
        Self {
            ids: &[],
            except: &[],
            topics: &[],
            least: Severity::Note,
            permitted: Needs::HARMLESS,
        }
    }
}

impl Selection<'_> {
    /// Whether a case is asked for, permitted or not.
    pub fn wants(&self, case: &Case) -> bool {
        let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, case.id));
        (self.ids.is_empty() || any(self.ids))
            && !any(self.except)
            && (self.topics.is_empty() || self.topics.contains(&case.topic))
            && case.severity <= self.least
    }
}

/// Whether a pattern with `*` and `?` describes all of `text`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0_usize, 0_usize);
    // Where to go on if the characters behind the last star do not fit: one character later.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let wanted = pattern.get(p).copied();
        if wanted == Some(b'*') {
            star = Some((p, t));
            p = p.saturating_add(1);
        } else if wanted == Some(b'?') || (wanted.is_some() && wanted == text.get(t).copied()) {
            p = p.saturating_add(1);
            t = t.saturating_add(1);
        } else if let Some((at, from)) = star {
            star = Some((at, from.saturating_add(1)));
            p = at.saturating_add(1);
            t = from.saturating_add(1);
        } else {
            return false;
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, hit) in [
            ("config.*", "config.read", true),
            ("config.*", "config", false),
            ("*.read", "config.read", true),
            ("*.re?d", "config.read", true),
            ("*read*", "config.read", true),
            ("c*r*d", "config.read", true),
            ("c*r*x", "config.read", false),
            ("config.read", "config.read", true),
            ("config.rea", "config.read", false),
            ("config.readx", "config.read", false),
            ("", "", true),
            ("", "a", false),
            ("**", "a", true),
            ("*a*a", "aaa", true),
        ] {
            assert_eq!(matches(pattern, text), hit, "{pattern} {text}");
        }
    }

    #[test]
    fn every_filter_counts() {
        let case = Case::new(Topic::Config, "config.read", Severity::Should, "AoE 4");
        let all = Selection::default();
        assert!(all.wants(&case));
        assert!(Selection { ids: &["x", "config.*"], ..all }.wants(&case));
        assert!(!Selection { ids: &["x"], ..all }.wants(&case));
        assert!(!Selection { except: &["*.read"], ..all }.wants(&case));
        assert!(Selection { topics: &[Topic::Config], ..all }.wants(&case));
        assert!(!Selection { topics: &[Topic::Mask], ..all }.wants(&case));
        assert!(!Selection { least: Severity::Must, ..all }.wants(&case));
        assert!(Selection { least: Severity::Should, ..all }.wants(&case));
    }
}
