"""The pair of RM75 arms: kinematics, geometry and action conversion, shared by simulation and real robot."""
