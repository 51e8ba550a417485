// What a refused call says: tests look at the code and at the words that a reader needs.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <utility>

#include "deploykit/error.hpp"

// The error that `call` throws. A call that returns, or throws anything else, fails the test.
template <class Call>
deploykit::Error refusal(Call&& call) {
    try {
        std::forward<Call>(call)();
    } catch (const deploykit::Error& error) {
        CHECK_FALSE(error.problem().empty());
        CHECK_FALSE(error.where().empty());
        CHECK_FALSE(error.remedy().empty());
        CHECK(std::string(error.what()) == error.where() + ": " + error.problem() + " " + error.remedy());
        return error;
    }
    FAIL("nothing was refused");
    throw;
}
