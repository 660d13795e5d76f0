"""Evidence about answers, the next step of a task, and the risk budget."""
