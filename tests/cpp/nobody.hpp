// Permissions, in tests that root may run.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>

// Root may read everything: for as long as this lives, the process is nobody.
class Nobody {
public:
    Nobody() : user_(geteuid()) {
        if (user_ == 0) {
            REQUIRE(seteuid(65534) == 0);
        }
    }
    Nobody(const Nobody&) = delete;
    Nobody& operator=(const Nobody&) = delete;
    ~Nobody() {
        if (user_ == 0 && seteuid(0) != 0) {
            std::abort();
        }
    }

private:
    uid_t user_;
};
