"""Where frames die outside the gate, as the kernel's own tracepoints tell it."""
