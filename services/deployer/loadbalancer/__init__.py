"""Load balancers behind one Protocol: webhook and HAProxy; an app without one has no hook at all."""
