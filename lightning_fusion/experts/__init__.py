"""What is fused: experts, pools of experts, and what a pool said about a data set."""
