"""Policies on another machine: a server, its clients, and the dialects that they speak."""
