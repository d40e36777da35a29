//! Repositories read from their hosts: CAR in, verified records out.
