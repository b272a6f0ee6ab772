//! Prometheus' text format, with numbers as Go's programs write them.
//!
//! Dashboards compare the upper bounds of buckets as strings: `le="1e-06"` does not find
//! `le="0.000001"`.

use std::fmt::{self, Write as _};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// Writes families as text.
pub fn encode(families: &[MetricFamily]) -> String {
    let mut text = Text(String::new());
    for family in families {
        text.family(family);
    }
    text.0
}

struct Text(String);

impl Text {
    fn family(&mut self, family: &MetricFamily) {
        let (name, kind) = (family.name(), family.get_field_type());
        let label = match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            // The programs have none.
            MetricType::SUMMARY | MetricType::UNTYPED => return,
        };
        let help = family.help().replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {label}"));
        for metric in family.get_metric() {
            match kind {
                MetricType::COUNTER => self.sample(name, metric, None, metric.get_counter().get_value()),
                MetricType::GAUGE => self.sample(name, metric, None, metric.get_gauge().get_value()),
                MetricType::HISTOGRAM => self.histogram(name, metric),
                MetricType::SUMMARY | MetricType::UNTYPED => {}
            }
        }
    }

    fn histogram(&mut self, name: &str, metric: &Metric) {
        let histogram = metric.get_histogram();
        let (bucket, count) = (format!("{name}_bucket"), histogram.get_sample_count() as f64);
        for part in histogram.get_bucket() {
            self.sample(&bucket, metric, Some(part.upper_bound()), part.cumulative_count() as f64);
        }
        self.sample(&bucket, metric, Some(f64::INFINITY), count);
        self.sample(&format!("{name}_sum"), metric, None, histogram.get_sample_sum());
        self.sample(&format!("{name}_count"), metric, None, count);
    }

    fn sample(&mut self, name: &str, metric: &Metric, bound: Option<f64>, value: f64) {
        let labels = Labels { pairs: metric.get_label(), bound };
        self.line(format_args!("{name}{labels} {}", Number(value)));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }
}

struct Labels<'a> {
    pairs: &'a [LabelPair],
    bound: Option<f64>,
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = '{';
        for pair in self.pairs {
            let value = pair.value().replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
            write!(f, "{before}{}=\"{value}\"", pair.name())?;
            before = ',';
        }
        if let Some(bound) = self.bound {
            write!(f, "{before}le=\"{}\"", Number(bound))?;
            before = ',';
        }
        if before == ',' { f.write_str("}") } else { Ok(()) }
    }
}

/// A number as Go's `%g` writes it: the fewest digits that name it, with an
/// exponent of at least two digits below 1e-4 and from 1e6 on.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        }
        let plain = value == 0.0 || value.is_nan() || (1e-4..1e6).contains(&value.abs());
        if plain {
            return write!(f, "{value}");
        }
        let scientific = format!("{value:e}");
        let Some((digits, exponent)) = scientific.split_once('e') else { return f.write_str(&scientific) };
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        write!(f, "{digits}e{sign}{exponent:0>2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntGaugeVec, Opts, Registry};

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.000_001, "1e-06"),
            (0.000_012_5, "1.25e-05"),
            (0.0001, "0.0001"),
            (0.005, "0.005"),
            (12.5, "12.5"),
            (86_400.0, "86400"),
            (999_999.0, "999999"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Number(value).to_string(), text);
        }
    }

    #[test]
    fn families_are_written_with_their_labels_in_quotes() {
        let registry = Registry::new();
        let gauges = IntGaugeVec::new(Opts::new("b_open", "Open\nones."), &["what"]).unwrap();
        gauges.with_label_values(&["a \"quoted\\\" one"]).set(-3);
        let counter = IntCounter::new("a_total", "All.").unwrap();
        counter.inc_by(2_000_000);
        let opts = HistogramOpts::new("c_seconds", "Time.").buckets(vec![1e-6, 0.5]);
        let histogram = HistogramVec::new(opts, &["x"]).unwrap();
        histogram.with_label_values(&["y"]).observe(0.25);
        histogram.with_label_values(&["y"]).observe(2.0);
        registry.register(Box::new(gauges)).unwrap();
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        assert_eq!(
            encode(&registry.gather()),
            "# HELP a_total All.\n# TYPE a_total counter\na_total 2e+06\n\
             # HELP b_open Open\\nones.\n# TYPE b_open gauge\nb_open{what=\"a \\\"quoted\\\\\\\" one\"} -3\n\
             # HELP c_seconds Time.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{x=\"y\",le=\"1e-06\"} 0\nc_seconds_bucket{x=\"y\",le=\"0.5\"} 1\n\
             c_seconds_bucket{x=\"y\",le=\"+Inf\"} 2\nc_seconds_sum{x=\"y\"} 2.25\nc_seconds_count{x=\"y\"} 2\n"
        );
    }
}
