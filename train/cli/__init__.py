"""The commands of training and seals. They import torch only when they need it."""
