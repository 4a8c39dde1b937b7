"""A pipeline on SmolLM2-135M-Instruct: planner, caller and summariser share one question with a tool."""
