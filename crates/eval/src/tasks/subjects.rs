//! The subjects of MMLU.

use std::fmt;

use serde::Serialize;

use super::MmluProtocol;

/// A group of subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Science, technology, engineering, mathematics.
    Stem,
    /// Humanities.
    Humanities,
    /// Social sciences.
    SocialSciences,
    /// What remains, and subjects that are not MMLU's.
    Other,
}

impl Category {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Stem, Self::Humanities, Self::SocialSciences, Self::Other];

    /// The category of a subject. The harness counts anatomy as STEM, the original as other.
    pub fn of(subject: &str, protocol: MmluProtocol) -> Self {
        if subject == "anatomy" && protocol == MmluProtocol::Harness {
            return Self::Stem;
        }
        let found = MMLU_SUBJECTS.iter().find(|(name, _)| *name == subject);
        found.map_or(Self::Other, |(_, category)| *category)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stem => "STEM",
            Self::Humanities => "humanities",
            Self::SocialSciences => "social sciences",
            Self::Other => "other",
        })
    }
}

/// The 57 subjects with the categories of hendrycks/test, `categories.py`.
pub const MMLU_SUBJECTS: [(&str, Category); 57] = {
    use Category::{Humanities, Other, SocialSciences, Stem};
    [
        ("abstract_algebra", Stem),
        ("anatomy", Other),
        ("astronomy", Stem),
        ("business_ethics", Other),
        ("clinical_knowledge", Other),
        ("college_biology", Stem),
        ("college_chemistry", Stem),
        ("college_computer_science", Stem),
        ("college_mathematics", Stem),
        ("college_medicine", Other),
        ("college_physics", Stem),
        ("computer_security", Stem),
        ("conceptual_physics", Stem),
        ("econometrics", SocialSciences),
        ("electrical_engineering", Stem),
        ("elementary_mathematics", Stem),
        ("formal_logic", Humanities),
        ("global_facts", Other),
        ("high_school_biology", Stem),
        ("high_school_chemistry", Stem),
        ("high_school_computer_science", Stem),
        ("high_school_european_history", Humanities),
        ("high_school_geography", SocialSciences),
        ("high_school_government_and_politics", SocialSciences),
        ("high_school_macroeconomics", SocialSciences),
        ("high_school_mathematics", Stem),
        ("high_school_microeconomics", SocialSciences),
        ("high_school_physics", Stem),
        ("high_school_psychology", SocialSciences),
        ("high_school_statistics", Stem),
        ("high_school_us_history", Humanities),
        ("high_school_world_history", Humanities),
        ("human_aging", Other),
        ("human_sexuality", SocialSciences),
        ("international_law", Humanities),
        ("jurisprudence", Humanities),
        ("logical_fallacies", Humanities),
        ("machine_learning", Stem),
        ("management", Other),
        ("marketing", Other),
        ("medical_genetics", Other),
        ("miscellaneous", Other),
        ("moral_disputes", Humanities),
        ("moral_scenarios", Humanities),
        ("nutrition", Other),
        ("philosophy", Humanities),
        ("prehistory", Humanities),
        ("professional_accounting", Other),
        ("professional_law", Humanities),
        ("professional_medicine", Other),
        ("professional_psychology", SocialSciences),
        ("public_relations", SocialSciences),
        ("security_studies", SocialSciences),
        ("sociology", SocialSciences),
        ("us_foreign_policy", SocialSciences),
        ("virology", Other),
        ("world_religions", Humanities),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_have_as_many_subjects_as_published() {
        let count = |protocol| {
            Category::ALL.map(|category| {
                let of = |(name, _): &&(&str, _)| Category::of(name, protocol) == category;
                MMLU_SUBJECTS.iter().filter(of).count()
            })
        };
        assert_eq!(count(MmluProtocol::Original), [18, 13, 12, 14]);
        assert_eq!(count(MmluProtocol::Harness), [19, 13, 12, 13]);
        assert!(MMLU_SUBJECTS.is_sorted());
    }
}
