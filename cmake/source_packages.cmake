# fmt, xxhash and GoogleTest for a cross build, which has no compiled packages: from the headers and sources
# that Debian installs. The host's include folder itself must not be searched, hence the link.
set(googletest_source /usr/src/googletest/googletest)
set(header_links ${PROJECT_BINARY_DIR}/include)
foreach(needed ${googletest_source}/src/gtest-all.cc /usr/include/fmt/format.h
        /usr/include/xxhash.h)
  if(NOT EXISTS ${needed})
    message(FATAL_ERROR "${needed} is missing; run: scripts/deps build aarch64")
  endif()
endforeach()

file(MAKE_DIRECTORY ${header_links})
file(CREATE_LINK /usr/include/fmt ${header_links}/fmt SYMBOLIC)
add_library(fmt INTERFACE)
target_include_directories(fmt SYSTEM INTERFACE ${header_links})
target_compile_definitions(fmt INTERFACE FMT_HEADER_ONLY)
add_library(fmt::fmt ALIAS fmt)

foreach(header xxhash.h xxh3.h)
  file(CREATE_LINK /usr/include/${header} ${header_links}/${header} SYMBOLIC)
endforeach()
add_library(xxhash INTERFACE)
target_include_directories(xxhash SYSTEM INTERFACE ${header_links})
target_compile_definitions(xxhash INTERFACE XXH_INLINE_ALL)
add_library(PkgConfig::xxhash ALIAS xxhash)

add_library(gtest_main STATIC ${googletest_source}/src/gtest-all.cc ${googletest_source}/src/gtest_main.cc)
target_include_directories(gtest_main SYSTEM PUBLIC ${googletest_source}/include PRIVATE ${googletest_source})
target_link_libraries(gtest_main PUBLIC Threads::Threads)
add_library(GTest::gtest_main ALIAS gtest_main)
