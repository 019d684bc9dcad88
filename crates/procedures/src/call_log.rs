//! The lines that calls log: in the node's own log, and wherever else somebody wants them.

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `log.debug`, and `_log` at level 0.
    Debug,
    /// `log.info`, `log`, `print`, and `_log`.
    Info,
    /// `log.warn`.
    Warn,
    /// `log.error`, and `_log` at level 2.
    Error,
}

/// One line of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// The library that exports the function.
    pub library: &'a str,
    /// The library's version.
    pub version: u64,
    /// The function.
    pub function: &'a str,
    /// Chosen by the script.
    pub level: LogLevel,
    /// Up to 1 KiB of the script's bytes; what is no UTF-8 in them is replaced.
    pub text: &'a str,
}

/// Takes lines as calls log them, on the thread that runs the call, which waits meanwhile.
pub trait LogSink: Send + Sync {
    /// Takes a line, of a call that may yet fail.
    fn write(&self, line: LogLine<'_>);
}

/// Most lines that one call may log, at whatever level.
const LINES_MAX: usize = 100;

/// What one call logs.
pub(crate) struct CallLog<'a> {
    pub(crate) library: &'a str,
    pub(crate) version: u64,
    pub(crate) function: &'a str,
    sink: Option<&'a dyn LogSink>,
    lines: usize,
    /// Lines of a call that may be given up, and would write them once more.
    held: Option<Vec<(LogLevel, String)>>,
}

impl<'a> CallLog<'a> {
    /// `holds`: lines wait for [`CallLog::release`].
    pub(crate) fn new(
        (library, version): (&'a str, u64),
        function: &'a str,
        sink: Option<&'a dyn LogSink>,
        holds: bool,
    ) -> Self {
        let held = holds.then(Vec::new);
        CallLog { library, version, function, sink, lines: 0, held }
    }

    /// Whether the call may log another line. Where it may not, that is logged, once.
    pub(crate) fn has_room(&mut self) -> bool {
        self.lines += 1;
        if self.lines == LINES_MAX + 1 {
            self.write(LogLevel::Warn, "further lines of this call dropped");
        }
        self.lines <= LINES_MAX
    }

    pub(crate) fn write(&mut self, level: LogLevel, text: &str) {
        match &mut self.held {
            Some(held) => held.push((level, text.to_owned())),
            None => self.tell(level, text),
        }
    }

    /// Writes what was held: the call has ended.
    pub(crate) fn release(&mut self) {
        for (level, text) in self.held.take().into_iter().flatten() {
            self.tell(level, &text);
        }
    }

    fn tell(&self, level: LogLevel, text: &str) {
        let CallLog { library, version, function, .. } = *self;
        match level {
            LogLevel::Error => tracing::error!(library, function, "{text}"),
            LogLevel::Warn => tracing::warn!(library, function, "{text}"),
            LogLevel::Info => tracing::info!(library, function, "{text}"),
            LogLevel::Debug => tracing::debug!(library, function, "{text}"),
        }
        if let Some(sink) = self.sink {
            sink.write(LogLine { library, version, function, level, text });
        }
    }
}
