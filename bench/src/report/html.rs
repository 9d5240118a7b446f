//! Markup that is balanced and escaped because there is no other way to write it here.

/// A piece of a page.
#[derive(Debug, Default)]
pub struct Html(String);

impl Html {
    /// `<name attributes>`, what `content` adds, `</name>`.
    pub fn element(&mut self, name: &str, attributes: &[(&str, &str)], content: impl FnOnce(&mut Html)) {
        self.open(name, attributes);
        self.0.push('>');
        content(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// An element with only text in it.
    pub fn line(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// An element without content.
    pub fn leaf(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.open(name, attributes);
        self.0.push_str("/>");
    }

    /// Text, whatever is in it.
    pub fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // HTML knows no other control characters.
                c if c.is_control() && c != '\n' && c != '\t' => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
    }

    /// The page's own style sheet: a constant of this program, in which nothing is a tag.
    pub fn style(&mut self, css: &'static str) {
        debug_assert!(!css.contains('<'));
        self.0.push_str("<style>");
        self.0.push_str(css);
        self.0.push_str("</style>");
    }

    /// A table that may be wider than the screen. `head` and rows have the same number of cells; the first column names the row.
    pub fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<String>]) {
        self.element(
            "div",
            &[("class", "scroll"), ("tabindex", "0"), ("role", "region"), ("aria-label", caption)],
            |html| {
                let class = if head.len() > 7 { "wide" } else { "" };
                html.element("table", &[("class", class)], |html| {
                    html.line("caption", &[], caption);
                    html.element("thead", &[], |html| {
                        html.element("tr", &[], |html| {
                            head.iter().for_each(|name| html.line("th", &[("scope", "col")], name));
                        });
                    });
                    html.element("tbody", &[], |html| {
                        for row in rows {
                            html.element("tr", &[], |html| {
                                for (index, cell) in row.iter().enumerate() {
                                    match index {
                                        0 => html.line("th", &[("scope", "row")], cell),
                                        _ => html.line("td", &[], cell),
                                    }
                                }
                            });
                        }
                    });
                });
            },
        );
    }

    /// The whole document.
    pub fn into_document(self) -> String {
        format!("<!DOCTYPE html>\n{}\n", self.0)
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.0.push('<');
        self.0.push_str(name);
        for (key, value) in attributes {
            self.0.push(' ');
            self.0.push_str(key);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped_and_balanced() {
        let mut html = Html::default();
        html.element("p", &[("title", "\"><script>")], |html| {
            html.text("<b>&'\u{7}");
            html.leaf("br", &[]);
        });
        assert_eq!(html.0, "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;b&gt;&amp;&#39;\u{fffd}<br/></p>");
    }
}
