"""vLLM under live verdicts, the OpenAI-compatible API, and the console."""
